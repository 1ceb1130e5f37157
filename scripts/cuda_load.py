"""Loads both op libraries into a torch of any kind and checks that every op has a CPU and a CUDA kernel.

Usage: cuda_load.py CPU_LIBRARY CUDA_LIBRARY
"""

import sys

import torch


def main(cpu: str, cuda: str) -> None:
    torch.ops.load_library(cpu)
    torch.ops.load_library(cuda)
    names = sorted(name for name in torch._C._dispatch_get_all_op_names() if name.startswith("symkern::"))
    missing = [
        f"{name} ({key})"
        for name in names
        for key in ("CPU", "CUDA")
        if not torch._C._dispatch_has_kernel_for_dispatch_key(name, key)
    ]
    if missing or not names:
        raise SystemExit(f"ops without a kernel: {', '.join(missing) or 'no op at all'}")
    print(f"loaded beside torch {torch.__version__}: {len(names)} ops, each with a CPU and a CUDA kernel")


if __name__ == "__main__":
    main(*sys.argv[1:])
