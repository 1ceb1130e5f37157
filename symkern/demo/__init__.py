"""The main job on real input, checked while it runs; ``symkern demo``.

systems.py    builds what is computed on, with ASE           ase_check.py  neighbor lists against ASE
potential.py  a Lennard-Jones fluid and its dynamics         steps.py      the steps of the demo
results.py    what a step hands over                         plots.py, report.py  figures and the HTML page
run.py        runs the steps and shows them in the terminal
"""
