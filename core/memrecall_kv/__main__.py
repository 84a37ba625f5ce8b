"""`python -m memrecall_kv` is the script `memrecall-kv`."""

from memrecall_kv.cli import main

if __name__ == "__main__":
    main()
