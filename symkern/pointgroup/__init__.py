"""The command `symkern pointgroup`, and pictures of a molecule's symmetry."""
