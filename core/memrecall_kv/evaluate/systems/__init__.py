"""What is measured: this pipeline and its competitors."""
