"""Which published robustness claims survive a fair test?"""

__version__ = "0.1.0"
