"""A model's weights and gradients as two vectors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_ALIGNMENT = 32  # elements: each weight starts at a multiple of 128 bytes, as an allocation of its own would


class FlatParameters:
    """Trainable parameters as views of one vector, their gradients as views of another.

    Optimizer, clipping, averaging and the sum over processes are then one operation each, whatever the number of
    layers. Gradients are zero, not None, for what the loss does not depend on. `release` undoes it.

    Args:
        model: its parameters must have one dtype and device.

    Attributes:
        vector: (P,) parameter with `grad` (P,); gaps between the weights are zero.

    Raises:
        ValueError: nothing to train, or parameters of several dtypes or devices.
    """

    def __init__(self, model: nn.Module) -> None:
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        if not self._parameters:
            raise ValueError("model has no parameter that requires a gradient")
        kinds = {(p.dtype, p.device) for p in self._parameters}
        if len(kinds) > 1:
            raise ValueError(f"the model's parameters must have one dtype and device, got {sorted(map(str, kinds))}")
        starts = [0]
        for parameter in self._parameters:
            starts.append(starts[-1] + -(-parameter.numel() // _ALIGNMENT) * _ALIGNMENT)
        dtype, device = kinds.pop()
        self.vector = nn.Parameter(torch.zeros(starts[-1], dtype=dtype, device=device))
        self.grad = torch.zeros_like(self.vector)
        self.vector.grad = self.grad
        self._grads = []
        for parameter, start in zip(self._parameters, starts, strict=False):
            piece = slice(start, start + parameter.numel())
            view = self.vector.detach()[piece].view(parameter.shape)
            view.copy_(parameter.detach())
            parameter.data = view
            self._grads.append(self.grad[piece].view(parameter.shape))
        self.zero_grad()

    def zero_grad(self) -> None:
        """Gradients to zero, and in place even if someone has set them to None."""
        self.grad.zero_()
        for parameter, grad in zip(self._parameters, self._grads, strict=True):
            if parameter.grad is not grad:
                parameter.grad = grad

    def backward(self, loss: Tensor) -> None:
        """Add the loss's gradient. Only the weights': positions, which forces need one of, would have another."""
        loss.backward(inputs=self._parameters)

    def norm(self) -> Tensor:
        """2-norm of the gradient, a tensor without dimensions."""
        norm: Tensor = torch.linalg.vector_norm(self.grad)
        return norm

    def release(self) -> None:
        """Give every parameter memory of its own again; gradients are dropped."""
        for parameter in self._parameters:
            parameter.data = parameter.data.clone()
            parameter.grad = None
