"""RQ: the jobs of a round, the worker that runs them and its clock; commands may import it.

What Redis holds names the functions here: these names outlive a move of the code.
"""

from backend.jobs.jobs import check, clean, predict_rest, run_part

__all__ = ["check", "clean", "predict_rest", "run_part"]
