"""RQ: the jobs of a round, the worker that runs them and its clock; commands may import it.

Jobs in Redis name these functions: the names here outlive a move of the code.
"""

from backend.jobs.jobs import check, clean, predict_rest, run_part, track

__all__ = ["check", "clean", "predict_rest", "run_part", "track"]
