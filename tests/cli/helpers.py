"""What the tests of the commands share: networks to name on a command line, and what a command printed."""

import re

from tdagger.cli import main

NETS = """
import torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU())
        self.head = torch.nn.Linear(8, 3)
    def forward(self, x):
        hidden = self.body(x)
        return {"logits": self.head(hidden), "hidden": hidden}
def build(): return Net(), torch.zeros(2, 4)
class Strange(torch.nn.Module):
    def forward(self, x): return torch.bincount(x.long().flatten())
def strange(): return Strange(), torch.zeros(2, 4)
class Inserted(torch.nn.Module):
    def forward(self, x): return torch.exp(x[None])[0]
def inserted(): return Inserted(), torch.zeros(2, 4)
class Counting(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("n", torch.zeros(1))
    def forward(self, x):
        self.n += 1
        return x * self.n
def counting(): return Counting(), torch.zeros(2, 4)
class Windows(torch.nn.Module):
    def forward(self, x): return x.reshape(2, 8, 7).exp().reshape(2, 56).reshape(2, 28, 2).reshape(2, 7, 4, 2)
def windows(): return Windows(), torch.zeros(2, 56)
class Block(torch.nn.Module):
    def __init__(self, n=8):
        super().__init__()
        self.norm, self.fc = torch.nn.LayerNorm(n), torch.nn.Linear(n, n)
    def forward(self, x): return x + self.fc(self.norm(x))
class Deep(torch.nn.Module):
    def __init__(self, layers, wide):
        super().__init__()
        self.stem = torch.nn.Linear(4, 8)
        self.layers = torch.nn.ModuleList([Block() for _ in range(layers)])
        self.head = torch.nn.Linear(8, wide)
    def forward(self, x):
        x = self.stem(x)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)
def deep(layers=4, wide=3, batch=2): return Deep(layers, wide), torch.zeros(batch, 5, 4)
class Unknown(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(4, 4)
    def forward(self, x): return torch.linalg.eigh(self.first(x))
class Choosing(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.a = torch.nn.Linear(4, 4)
    def forward(self, x): return torch.cond(x.sum() > 0, lambda x: self.a(x), lambda x: x.exp(), (x,))
def choosing(): return Choosing(), torch.zeros(2, 4)
def unknown(): return Unknown(), torch.zeros(4, 4)
"""


def shown(capsys) -> str:
    """What was printed, with runs of blanks as one."""
    return re.sub(r"\s+", " ", capsys.readouterr().out)


def failed(capsys, *args: str, status: int = 2) -> str:
    """The one line that a command prints when it fails."""
    assert main(args) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("tdagger: ")
    assert err.count("\n") == 1
    return err
