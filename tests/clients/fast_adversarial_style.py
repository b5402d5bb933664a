"""A script in the style of fast_adversarial: normalised inputs, δ as a parameter, the attack by `loss.backward()`."""

import torch
import torch.nn.functional as F
from clients.problem import EPOCHS, MEAN, STD, WARMUP, Setting, batches, data, network, rate

import co_probe


def normalize(x: torch.Tensor) -> torch.Tensor:
    return (x - MEAN) / STD


def main(setting: Setting) -> co_probe.Monitor:
    train, val = data()
    model = network().train()
    opt = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    monitor = co_probe.Monitor(model, opt, epsilon=setting.epsilon, probe=val, normalise=(MEAN, STD))
    step = 0
    for epoch in range(setting.epochs):
        loader = batches(*train, epoch)
        for X, y in loader:
            step += 1
            epsilon = setting.epsilon * min(1.0, step / (WARMUP * len(loader)))
            opt.param_groups[0]["lr"] = rate(step / (EPOCHS * len(loader)), setting.peak)
            delta = torch.zeros_like(X, requires_grad=True)
            loss = F.cross_entropy(model(normalize(X + delta)), y)
            loss.backward()
            delta = epsilon * delta.grad.detach().sign()
            delta = torch.clamp(X + delta, 0, 1) - X
            output = model(normalize(X + delta))
            loss = F.cross_entropy(output, y)
            opt.zero_grad()
            loss.backward()
            opt.step()
            if monitor.alarm and setting.stop:
                return monitor
        monitor.epoch()
    return monitor
