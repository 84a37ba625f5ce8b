"""Pages to look at: how an answer came about, and what a bank holds. Each is one file that needs nothing else.

`page.py` makes a page of a template in `pages/`; `answer.py` and `bank.py` say what is on it. Needs the extra `report`.
"""

from typing import TYPE_CHECKING

from memrecall_kv.faces import on_demand

if TYPE_CHECKING:
    from memrecall_kv.report.answer import answer_page
    from memrecall_kv.report.bank import bank_page
    from memrecall_kv.report.page import in_frame, render

__all__ = ["answer_page", "bank_page", "in_frame", "render"]

__getattr__ = on_demand(
    __name__,
    {
        "answer_page": "memrecall_kv.report.answer",
        "bank_page": "memrecall_kv.report.bank",
        "in_frame": "memrecall_kv.report.page",
        "render": "memrecall_kv.report.page",
    },
)
