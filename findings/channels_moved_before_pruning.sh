#!/bin/sh
# Torch-Pruning 1.6.1 (torch 2.13.0, CPU): where a network moves channels, the next layer loses the wrong ones.
#
# A convolution's output channels 1 and 2 of 8 are removed. What depends on them is found through autograd's graph, in
# which flip, roll, channel_shuffle (and the view, transpose and reshape that ShuffleNet writes it as) are taken for
# elementwise functions: the next layer loses its input channels 1 and 2, whichever channels stand there. Shapes fit, so
# nothing is said. Right is the network in which these two channels are zero; the difference is that to its outputs.
#
# Output seen:
#     relu             right
#     flip             off by 1.37
#     roll             off by 0.83
#     channel_shuffle  off by 0.75
#     view, transpose  off by 0.75
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 numpy==2.4.6 tqdm==4.67.1
"$folder/venv/bin/python" -m pip install --quiet --no-deps torch-pruning==1.6.1
cat > "$folder/program.py" <<'PROGRAM'
import copy

import torch
import torch_pruning as tp
from torch import nn

MOVES = {
    "relu": torch.relu,
    "flip": lambda y: y.flip(1),
    "roll": lambda y: y.roll(3, 1),
    "channel_shuffle": lambda y: torch.channel_shuffle(y, 2),
    "view, transpose": lambda y: y.view(y.shape[0], 2, -1, *y.shape[2:]).transpose(1, 2).reshape(y.shape),
}


class Network(nn.Module):
    def __init__(self, move):
        super().__init__()
        self.first, self.second, self.move = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1), move

    def forward(self, x):
        return self.second(self.move(self.first(x)))


right = {}
for name, move in MOVES.items():
    torch.manual_seed(0)
    network, x = Network(move), torch.randn(2, 3, 6, 6)
    zeroed = copy.deepcopy(network)
    with torch.no_grad():
        zeroed.first.weight[1:3] = zeroed.first.bias[1:3] = 0
    graph = tp.DependencyGraph().build_dependency(network, x)
    graph.get_pruning_group(network.first, tp.prune_conv_out_channels, [1, 2]).prune()
    off = (network(x) - zeroed(x)).abs().max().item()
    right[name] = off < 1e-5
    print(f"{name:16}", "right" if right[name] else f"off by {off:.2f}")
if right != {name: name == "relu" for name in MOVES}:
    raise SystemExit("the behaviour changed")
print("as stated above")
PROGRAM
"$folder/venv/bin/python" -W ignore "$folder/program.py"
