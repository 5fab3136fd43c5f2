"""The dataset doctor: what is wrong with the rows of a version, and what can be done about it.

Pure: reads canonical rows from files, knows no database. `examine` is the entrance; `report.py` is what it returns;
`sentences.py` puts findings into words. A worker runs it in a memory-capped child process.
"""
