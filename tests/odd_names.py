"""Names that are odd but harmless: what they would do, were they run as code, is to set ``marker``."""

import torch
from torch import nn

ODD = (
    *["a b", "class", "None", "0", "self", "torch", "result", "x1", "m", "@", "__mangled", "ﬁ", "fi", "²"],
    *["line\nmarker = 1", "return\rmarker = 1", "sep\u2028marker = 1", "\x85marker = 1", "quote'", 'quote"'],
    *["'''\nmarker = 1\n'''", '"""\nmarker = 1\n"""', "back\\", "hash # x", "[red]", "[/x]", "[/]\\", ":smile:"],
    *["\u202ebidi\u2069", "\u200bnone\ufeff", "\x1b[31m", "\x00", "=1+1", "a,b;c", "{x}", "%s", "é", "x" * 10_000],
)


class Layer(nn.Module):
    """Multiplies by a parameter and adds a buffer, both of odd names."""

    def __init__(self, weight: str, offset: str) -> None:
        super().__init__()
        self.called = (weight, offset)
        self.register_parameter(weight, nn.Parameter(torch.randn(3)))
        self.register_buffer(offset, torch.randn(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight, offset = self.called
        return torch.tanh(x * self._parameters[weight]) + self._buffers[offset]


class Odd(nn.Module):
    """A layer for every odd name: attribute, class, parameter and buffer are called so, and so is the result."""

    def __init__(self, names: tuple[str, ...] = ODD) -> None:
        super().__init__()
        torch.manual_seed(0)
        for i, name in enumerate(names):
            kind = type(f"Layer\nmarker = 1 {name}".replace("\x00", ""), (Layer,), {})
            self._modules[name] = kind(name, names[i - 1] if len(names) > 1 else "offset")

    def forward(self, x: torch.Tensor, **more: torch.Tensor) -> dict[str, torch.Tensor]:
        for layer in self._modules.values():
            x = layer(x)
        for extra in more.values():
            x = x + extra
        return {"line\nmarker = 1": x, "y": x + 1.0}


def odd(*names: str) -> nn.Module:
    """A network of odd names whose own class has one too."""
    return type("Net\nmarker = 1 \x1b[31m\u202e", (Odd,), {})(names or ODD).eval()


def is_readable(text: str) -> bool:
    """Whether a text of several lines has no raw control, mark of direction or other character that doesn't print."""
    return all(c == "\n" or c.isprintable() for c in text)
