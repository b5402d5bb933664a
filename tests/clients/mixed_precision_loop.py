"""A loop with bfloat16 autocast on the CPU, gradients accumulated over two batches, and gradient clipping."""

import torch
from clients.problem import BATCH, EPOCHS, MEAN, STD, WARMUP, Setting, batches, data, network, rate
from torch import nn

import co_probe


class Normalized(nn.Module):
    """The network behind its normalisation; returns logits and features, as some networks do."""

    def __init__(self):
        super().__init__()
        self.backbone = network()

    def forward(self, images):
        logits = self.backbone((images - MEAN) / STD)
        return logits, images.mean(dim=(1, 2, 3))


def adversarial(net, criterion, images, labels, epsilon):
    images = images.clone().requires_grad_(True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cost = criterion(net(images)[0], labels)
    grad = torch.autograd.grad(cost, images, retain_graph=False, create_graph=False)[0]
    return torch.clamp(images + epsilon * grad.sign(), min=0, max=1).detach()


def main(setting: Setting) -> co_probe.Monitor:
    (x, y), held_out = data()
    net, criterion = Normalized().train(), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    monitor = co_probe.Monitor(net, optimizer, epsilon=setting.epsilon, probe=held_out)
    step, parts = 0, 2
    for epoch in range(setting.epochs):
        loader = batches(x, y, epoch)
        for images, labels in loader:
            step += 1
            epsilon = setting.epsilon * min(1.0, step / (WARMUP * len(loader)))
            optimizer.param_groups[0]["lr"] = rate(step / (EPOCHS * len(loader)), setting.peak)
            for chunk, target in zip(images.split(BATCH // parts), labels.split(BATCH // parts), strict=True):
                perturbed = adversarial(net, criterion, chunk, target, epsilon)
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    loss = criterion(net(perturbed)[0], target) / parts
                loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 10.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if monitor.alarm and setting.stop:
                return monitor
        monitor.epoch()
    return monitor
