"""What the search minimises: the loss of LoRA adapters of chosen ranks on rotated digits, plus a price per parameter.

The base model, a small vision transformer, is trained here on upright digits and then frozen, its classifier included.
The adapters alone must make it read the same digits turned by 90 degrees.
"""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import numpy as np
import peft
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch.nn.functional import cross_entropy
from transformers import ViTConfig, ViTForImageClassification

Ranks = Mapping[str, int]  # by a module's name in the model; 0: the module is left without an adapter

PRICE = 1e-4  # of one trainable parameter: a thousand of them must lower the cross-entropy by 0.1
SEEDS = (0, 1)  # of the trainings that are averaged, because one alone is too noisy
STEPS = 60  # of one LoRA training
BATCH = 32


@dataclass(frozen=True, slots=True)
class Part:
    """Images and the digits on them."""

    images: torch.Tensor
    digits: torch.Tensor


@dataclass(frozen=True, slots=True)
class Outcome:
    """How adapters of some ranks did."""

    parameters: int
    validation_loss: float
    test_accuracy: float

    @property
    def cost(self) -> float:
        """What the search minimises."""
        return self.validation_loss + PRICE * self.parameters


def cost(ranks: Ranks) -> float:
    """The objective."""
    return evaluate(ranks).cost


def evaluate(ranks: Ranks, seeds: tuple[int, ...] = SEEDS) -> Outcome:
    """Train the adapters and measure them; the mean over the training seeds. Equal arguments, equal outcome."""
    train, validation, test = parts(turned=True)
    outcomes = []
    for seed in seeds:
        model = base_model()
        with repeatable(seed):
            adapted = with_adapters(model, ranks)
            parameters = sum(weight.numel() for weight in adapted.parameters() if weight.requires_grad)
            if parameters:
                fit(adapted, train, STEPS, learning_rate=2e-2)
            outcomes.append((parameters, measure(adapted, validation)[0], measure(adapted, test)[1]))
    parameters, loss, accuracy = np.mean(outcomes, axis=0)
    return Outcome(int(parameters), float(loss), float(accuracy))


def with_adapters(model: torch.nn.Module, ranks: Ranks) -> torch.nn.Module:
    """A frozen copy of the model with fresh adapters."""
    frozen = copy.deepcopy(model).requires_grad_(False)
    present = {module: rank for module, rank in ranks.items() if rank}
    if not present:  # peft refuses to adapt nothing
        return frozen
    # alpha equal to the rank gives every update the weight 1, so that a rank is nothing but a size.
    return peft.get_peft_model(
        frozen, peft.LoraConfig(target_modules=list(present), rank_pattern=present, alpha_pattern=present)
    )


@cache
def base_model() -> ViTForImageClassification:
    """The model to adapt: trained once per process, within seconds."""
    config = ViTConfig(
        image_size=8,
        patch_size=4,
        num_channels=1,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_labels=10,
    )
    with repeatable(seed=0):
        model = ViTForImageClassification(config)
        fit(model, parts(turned=False)[0], steps=400, learning_rate=2e-3)
    return model


@cache
def parts(turned: bool) -> tuple[Part, Part, Part]:
    """The digits that come with scikit-learn, a third each for training, validation and test."""
    pixels, digits = load_digits(return_X_y=True)
    images = pixels.reshape(-1, 1, 8, 8).astype(np.float32) / 8 - 1
    if turned:
        images = np.rot90(images, axes=(2, 3)).copy()
    train, rest = train_test_split(np.arange(len(digits)), train_size=1 / 3, stratify=digits, random_state=0)
    validation, test = train_test_split(rest, train_size=1 / 2, stratify=digits[rest], random_state=0)
    part = [Part(torch.from_numpy(images[i]), torch.from_numpy(digits[i])) for i in (train, validation, test)]
    return part[0], part[1], part[2]


def fit(model: torch.nn.Module, part: Part, steps: int, learning_rate: float) -> None:
    """Train what is trainable, with a learning rate that rises and falls back to 0."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=learning_rate, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps)
    model.train()
    for _ in range(steps):
        batch = torch.randint(len(part.digits), (BATCH,))
        loss = cross_entropy(model(pixel_values=part.images[batch]).logits, part.digits[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


@torch.no_grad()
def measure(model: torch.nn.Module, part: Part) -> tuple[float, float]:
    """Cross-entropy and accuracy."""
    model.eval()
    logits = model(pixel_values=part.images).logits
    return cross_entropy(logits, part.digits).item(), (logits.argmax(-1) == part.digits).float().mean().item()


@contextmanager
def repeatable(seed: int) -> Iterator[None]:
    """The same numbers whatever the caller did to torch before, and nothing changed for the caller afterwards.

    One thread: more would not make steps this small faster, and their number would change the last digits.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(threads)
