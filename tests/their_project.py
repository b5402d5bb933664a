"""A project that knows nothing of co-probe: a network on normalised images, trained with FGSM, saved every epoch."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MEAN, STD = 0.305, 0.376
EPSILON = 0.14


class SmallNet(nn.Module):
    """No arguments, images that are normalised already, features flattened by `view`."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 16, 3, padding=1)
        self.fc = nn.Linear(16 * 4 * 4, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc(x.view(x.size(0), -1))


def train(folder: Path, x: Tensor, y: Tensor, epochs: int) -> None:
    """Save `model_epoch_{i}.pth`, from 1, with the prefix that DataParallel gives, and `log.csv`."""
    torch.manual_seed(0)
    model = SmallNet()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    lines = ["epoch,train_loss,train_accuracy"]
    for epoch in range(1, epochs + 1):
        model.train()
        total = right = 0.0
        for index in torch.randperm(len(x)).split(128):
            images = ((x[index] - MEAN) / STD).requires_grad_()
            gradient = torch.autograd.grad(F.cross_entropy(model(images), y[index]), images)[0]
            images = (images + EPSILON / STD * gradient.sign()).clamp((0 - MEAN) / STD, (1 - MEAN) / STD).detach()
            logits = model(images)
            loss = F.cross_entropy(logits, y[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(index)
            right += (logits.argmax(1) == y[index]).sum().item()
        lines.append(f"{epoch},{total / len(x)},{right / len(x)}")
        state = {f"module.{name}": value for name, value in model.state_dict().items()}
        torch.save(
            {"epoch": epoch, "state_dict": state, "optimizer": optimizer.state_dict()},
            folder / f"model_epoch_{epoch}.pth",
        )
    (folder / "log.csv").write_text("\n".join(lines))
