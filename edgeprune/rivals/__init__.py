"""Everybody else's exports of a parent: who they are (roll.py), how their files are made (make.py,
ptq.py), how they are run (ways.py, fastest.py), and what the race says (table.py)."""
