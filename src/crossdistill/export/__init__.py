"""Students as files of other runtimes: written, opened there again, judged on real images, and measured.

`export.py` is the whole of it; `backend.py` is what a backend does, each in a file of its own; `judge.py` compares what
a runtime says with what the student says, `measure.py` times runtimes in processes of their own, `card.py` is what
comes out. Nothing is imported here: a process that times one runtime must not hold the others in its memory.
"""
