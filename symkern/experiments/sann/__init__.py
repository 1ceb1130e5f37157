"""The tables of the SANN paper: vectors of lower symmetry than the molecules they belong to.

Tables 1, 2 and 7 train on a few molecules (`vector_table`, `vector_task`, `vector_training`), Table 3 and the dipoles
of QM9 on many (`batched_training`); Table 4 is about frames alone. All take their models from `vector_models` and
their errors from `vector_metrics`.
"""
