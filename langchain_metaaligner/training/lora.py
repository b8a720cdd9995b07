"""The training loop: fits a LoRA adapter to edits, on a CPU, and resumes where it was killed."""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from langchain_metaaligner.training.embedded.base import BASE_NAME, load_base, load_tokenizer

IGNORED = -100
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@dataclass(frozen=True, slots=True)
class Recipe:
    """Settings of one run.

    Attributes:
        rank: Rank of the adapter; its alpha is twice that.
        learning_rate: The highest learning rate; it falls to 5 % of that along a cosine.
        warmup: Steps until the highest learning rate.
        batch: Examples a step.
        max_tokens: Longer examples are left out.
        epochs: Passes over the examples.
        seed: Seed of the order and of the first weights.
        save_every: Steps between two checkpoints.
        averaged: Share of the average that a step keeps; the adapter is that average.
        threads: Threads of torch.
    """

    rank: int = 32
    learning_rate: float = 6e-4
    warmup: int = 15
    batch: int = 8
    max_tokens: int = 448
    epochs: float = 1.0
    seed: int = 7
    save_every: int = 25
    averaged: float = 0.97
    threads: int = 2


@dataclass(frozen=True, slots=True)
class Encoded:
    """One tokenised example.

    Attributes:
        tokens: Prompt, edit and the end token.
        labels: The same, with `IGNORED` for the prompt.
    """

    tokens: list[int]
    labels: list[int]


def encode(tokenizer: Any, prompt: str, edit: str) -> Encoded:
    """Tokenise one example as the engine will: prompt and edit apart, nothing a control token.

    Args:
        tokenizer: The base model's tokenizer.
        prompt: The prompt; it ends where the edit begins.
        edit: The edit that the model is to write.

    Returns:
        Tokens and labels of the same length; only the edit and the end token have labels.
    """
    plain = {"add_special_tokens": False, "split_special_tokens": True}
    head = tokenizer(prompt, **plain)["input_ids"]
    tail = [*tokenizer(edit, **plain)["input_ids"], tokenizer.eos_token_id]
    return Encoded([*head, *tail], [IGNORED] * len(head) + tail)


def batches(lengths: Sequence[int], recipe: Recipe) -> list[list[int]]:
    """Put examples of like length together, then mix the batches.

    Args:
        lengths: Tokens of each example.
        recipe: Batch size, epochs and seed.

    Returns:
        Indices of the examples of each step.
    """
    rng = random.Random(recipe.seed)
    order: list[int] = []
    for epoch in range(math.ceil(recipe.epochs)):
        indices = list(range(len(lengths)))
        rng.shuffle(indices)
        order += indices[: round((recipe.epochs - epoch) * len(lengths))]
    steps: list[list[int]] = []
    pool = recipe.batch * 24
    for start in range(0, len(order), pool):
        chunk = sorted(order[start : start + pool], key=lambda i: lengths[i])
        mixed = [chunk[i : i + recipe.batch] for i in range(0, len(chunk), recipe.batch)]
        rng.shuffle(mixed)
        steps += mixed
    return steps


def rate(step: int, total: int, recipe: Recipe) -> float:
    """Give the learning rate of a step.

    Args:
        step: The step, from 0.
        total: Steps of the run.
        recipe: The settings.

    Returns:
        The learning rate.
    """
    if step < recipe.warmup:
        return recipe.learning_rate * (step + 1) / recipe.warmup
    done = (step - recipe.warmup) / max(1, total - recipe.warmup)
    return recipe.learning_rate * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done)))


def train(
    pairs: Sequence[tuple[str, str]],
    out: Path,
    recipe: Recipe,
    *,
    start: Path | None = None,
    report: Callable[[str], None] = print,
) -> Path:
    """Fit an adapter to prompts and their edits.

    A run that finds a checkpoint in `out` goes on from it.

    Args:
        pairs: Prompts and edits.
        out: Folder for the checkpoint and the finished adapter.
        recipe: The settings.
        start: Checkpoint of an earlier run whose weights are the first ones here.
        report: Gets a line of progress now and then.

    Returns:
        The folder of the adapter.
    """
    import torch
    from peft import LoraConfig, get_peft_model

    torch.set_num_threads(recipe.threads)
    torch.manual_seed(recipe.seed)
    tokenizer = load_tokenizer()
    examples = [encode(tokenizer, prompt, edit) for prompt, edit in pairs]
    examples = [e for e in examples if len(e.tokens) <= recipe.max_tokens]
    steps = batches([len(e.tokens) for e in examples], recipe)

    config = LoraConfig(
        r=recipe.rank,
        lora_alpha=2 * recipe.rank,
        lora_dropout=0.0,
        target_modules=LINEARS,
        task_type="CAUSAL_LM",
        base_model_name_or_path=BASE_NAME,
    )
    model: Any = get_peft_model(load_base(torch.bfloat16), config, autocast_adapter_dtype=False)
    used = [p for p in model.parameters() if p.requires_grad]
    # The optimizer's small steps would vanish in bfloat16, so it works on copies in float32.
    weights = [p.detach().float() for p in used]
    optimizer = torch.optim.AdamW(weights, lr=recipe.learning_rate, weight_decay=0.0)
    body, head = model.base_model.model.model, model.base_model.model.lm_head

    out.mkdir(parents=True, exist_ok=True)
    checkpoint, first = out / "checkpoint.pt", 0
    known = checkpoint if checkpoint.exists() else start
    if known:
        state = torch.load(known, weights_only=True)
        for place, weight in enumerate(weights):
            weight.copy_(state["weights"][place])
            used[place].data.copy_(weight)
        if known == checkpoint:
            optimizer.load_state_dict(state["optimizer"])
            first = state["step"]

    average = [w.clone() for w in (state["average"] if first else weights)]
    report(f"{len(examples)} examples, {len(steps)} steps, from step {first}")
    started, mean = time.monotonic(), 0.0
    for step in range(first, len(steps)):
        for group in optimizer.param_groups:
            group["lr"] = rate(step, len(steps), recipe)
        tokens, labels = padded([examples[i] for i in steps[step]])
        # No mask: padding stands on the right, where causal attention never looks.
        hidden = body(input_ids=tokens, use_cache=False).last_hidden_state[:, :-1]
        wanted = labels[:, 1:]
        # Logits of the prompt's positions would take most of the memory, for nothing.
        logits = head(hidden[wanted != IGNORED])
        loss: Any = torch.nn.functional.cross_entropy(logits.float(), wanted[wanted != IGNORED])
        loss.backward()
        for place, parameter in enumerate(used):
            weights[place].grad = parameter.grad.float()
            parameter.grad = None
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        for place, parameter in enumerate(used):
            parameter.data.copy_(weights[place])
            average[place].lerp_(weights[place], 1 - recipe.averaged)
        mean = loss.item() if step == first else 0.95 * mean + 0.05 * loss.item()
        if (step + 1) % 10 == 0:
            took = (time.monotonic() - started) / (step + 1 - first)
            report(f"step {step + 1}/{len(steps)} loss {mean:.3f} {took:.2f} s a step")
        if (step + 1) % recipe.save_every == 0 or step + 1 == len(steps):
            state = {
                "weights": weights,
                "average": average,
                "optimizer": optimizer.state_dict(),
                "step": step + 1,
            }
            torch.save(state, out / "checkpoint.tmp")
            (out / "checkpoint.tmp").replace(checkpoint)
            for place, parameter in enumerate(used):
                parameter.data.copy_(average[place])
            save_adapter(model, out / "adapter")
            for place, parameter in enumerate(used):
                parameter.data.copy_(weights[place])
    (out / "recipe.json").write_text(json.dumps(asdict(recipe), indent=1) + "\n")
    return out / "adapter"


def padded(examples: Sequence[Encoded]) -> tuple[Any, Any]:
    """Make tensors of examples, padded on the right.

    Args:
        examples: Examples of one step.

    Returns:
        Tokens and labels.
    """
    import torch

    width = max(len(e.tokens) for e in examples)
    tokens = torch.zeros((len(examples), width), dtype=torch.long)
    labels = torch.full((len(examples), width), IGNORED, dtype=torch.long)
    for row, example in enumerate(examples):
        tokens[row, : len(example.tokens)] = torch.tensor(example.tokens)
        labels[row, : len(example.labels)] = torch.tensor(example.labels)
    return tokens, labels


def save_adapter(model: Any, folder: Path) -> None:
    """Write the adapter in bfloat16, in the format of peft.

    Args:
        model: The peft model.
        folder: Where to.
    """
    import torch
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    state = get_peft_model_state_dict(model)
    small = {name: w.detach().to(torch.bfloat16).contiguous() for name, w in state.items()}
    save_file(small, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = model.peft_config["default"]
    was, config.inference_mode = config.inference_mode, True
    # peft puts the folder that the base was read from here.
    config.base_model_name_or_path = BASE_NAME
    config.save_pretrained(folder)
    config.inference_mode = was
