"""Reward models as scorers: sequence classifiers of transformers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langchain_metaaligner.editing.objectives import Objective
from langchain_metaaligner.errors import CheckpointError
from langchain_metaaligner.training.data.pairs import Comparison, PreferencePair
from langchain_metaaligner.training.data.parser import objective_name
from langchain_metaaligner.training.data.scores import Unscored

if TYPE_CHECKING:
    import torch

Template = Callable[[str, str], str]
"""Renders the input of a reward model: `template(context, answer)`."""

# Tokenizers without a window report a far larger number.
_NO_WINDOW = 10**9


@dataclass(frozen=True, slots=True)
class RewardModel:
    """A sequence classifier, and the label whose score counts.

    Attributes:
        model: A hub id, a folder, or a loaded model.
        label: Number or name of the label that stands for better answers; not needed if the model
            has a single output.
        tokenizer: The tokenizer; needed for a loaded model.
        revision: Revision on the hub.
    """

    model: Any
    label: int | str | None = None
    tokenizer: Any = None
    revision: str | None = None


class RewardModels:
    """Compares answers by the scores of a reward model for each objective.

    The authors did so for HH-RLHF (Yang et al. 2024, appendix D.1). Models are loaded one at a
    time, when their objective is scored. An answer in several pairs is scored once. Texts longer
    than the model's window are reported instead of being scored, as in the authors' scripts.

    Args:
        models: Name of an objective to its model.
        template: Renders the text to score. By default this is the model's chat template, if it
            has one and the context came as turns; otherwise context and answer, with a space
            between them.
        batch_size: Texts in one forward pass.
        max_tokens: Most tokens of a text; by default the model's window.
        device: Device of the models; by default a GPU if there is one.
        dtype: Type of the weights; by default that of the checkpoint.
    """

    def __init__(
        self,
        models: Mapping[str, Any],
        *,
        template: Template | None = None,
        batch_size: int = 8,
        max_tokens: int | None = None,
        device: str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self._models = {
            objective_name(name): one if isinstance(one, RewardModel) else RewardModel(one)
            for name, one in models.items()
        }
        self._template = template
        self._batch_size = batch_size
        self._max_tokens = max_tokens
        self._device = device
        self._dtype = dtype

    @property
    def models(self) -> Mapping[str, RewardModel]:
        """The model of each objective, by the objective's name."""
        return self._models

    def load(self, objectives: Sequence[Objective]) -> None:
        """Load models now and keep them, for many calls of `compare`.

        A model that serves several objectives is loaded once.

        Args:
            objectives: The objectives that will be scored.

        Raises:
            CheckpointError: There is no model for an objective, or it is unable to score.
        """
        loaded: dict[tuple[str, str | None], tuple[Any, Any]] = {}
        for objective in objectives:
            name, one = self._of(objective)
            key = str(one.model), one.revision
            if not isinstance(one.model, str | Path) or key not in loaded:
                loaded[key] = self._load(one)
            model, tokenizer = loaded[key]
            _label(model.config, one)
            self._models[name] = replace(one, model=model, tokenizer=tokenizer)

    def compare(
        self, pairs: Sequence[PreferencePair], objective: Objective
    ) -> list[Comparison | Unscored]:
        """Score both answers of each pair.

        Args:
            pairs: The pairs.
            objective: The objective whose model scores.

        Returns:
            Two scores for each pair, or why there are none.

        Raises:
            CheckpointError: There is no model for the objective, or it is unable to score.
        """
        _, one = self._of(objective)
        model, tokenizer = self._load(one)
        label = _label(model.config, one)
        texts = [
            self._write(pair, answer, tokenizer)
            for pair in pairs
            for answer in (pair.answer_a, pair.answer_b)
        ]
        was_training = model.training
        model.eval()
        try:
            scores = self._scores(model, tokenizer, list(dict.fromkeys(texts)), label)
        finally:
            model.train(was_training)
        compared: list[Comparison | Unscored] = []
        for first, second in zip(texts[::2], texts[1::2], strict=True):
            if first in scores and second in scores:
                compared.append((scores[first], scores[second]))
            else:
                reason = "an answer with its context is longer than the reward model's window"
                compared.append(Unscored(reason))
        return compared

    def _of(self, objective: Objective) -> tuple[str, RewardModel]:
        name = objective_name(objective.name)
        if name not in self._models:
            msg = (
                f"There is no reward model for {name!r}, only for {', '.join(self._models)}. Add"
                " one, or leave the objective out."
            )
            raise CheckpointError(msg)
        return name, self._models[name]

    def _load(self, one: RewardModel) -> tuple[Any, Any]:
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        if not isinstance(one.model, str | Path):
            if one.tokenizer is None:
                msg = "A loaded reward model needs its tokenizer: RewardModel(model, tokenizer=…)."
                raise CheckpointError(msg)
            return one.model, one.tokenizer
        try:
            model, loaded = AutoModelForSequenceClassification.from_pretrained(
                one.model,
                revision=one.revision,
                dtype=self._dtype or "auto",
                output_loading_info=True,
            )
            tokenizer = one.tokenizer or AutoTokenizer.from_pretrained(
                one.model, revision=one.revision
            )
        except (OSError, ValueError) as error:
            msg = (
                f"The reward model {str(one.model)!r} can't be loaded ({type(error).__name__})."
                " Pass the hub id or the folder of a sequence classifier."
            )
            raise CheckpointError(msg) from error
        if loaded["missing_keys"]:
            # transformers only warns, and the scores would come from random weights.
            msg = (
                f"{str(one.model)!r} lacks weights of a sequence classifier:"
                f" {', '.join(sorted(loaded['missing_keys']))}. Pass a model that was trained as"
                " one."
            )
            raise CheckpointError(msg)
        device = self._device or ("cuda" if torch.cuda.is_available() else "cpu")
        return model.to(device), tokenizer

    def _write(self, pair: PreferencePair, answer: str, tokenizer: Any) -> tuple[str, bool]:
        """The text to score, and whether the tokenizer adds special tokens to it."""
        if self._template is not None:
            return self._template(pair.context_text(), answer), True
        if isinstance(pair.context, str) or not tokenizer.chat_template:
            return f"{pair.context_text()} {answer}", True
        roles = {"human": "user", "assistant": "assistant"}
        messages = [{"role": roles[turn.role], "content": turn.text} for turn in pair.context]
        messages.append({"role": "assistant", "content": answer})
        return tokenizer.apply_chat_template(messages, tokenize=False), False

    def _scores(
        self, model: Any, tokenizer: Any, texts: Sequence[tuple[str, bool]], label: int
    ) -> dict[tuple[str, bool], float]:
        import torch

        most = self._max_tokens or _window(model.config, tokenizer)
        scores: dict[tuple[str, bool], float] = {}
        tokens = {one: tokenizer(one[0], add_special_tokens=one[1])["input_ids"] for one in texts}
        # Similar lengths together; a model without a padding token gets its texts one by one.
        fitting = sorted(
            (one for one in texts if len(tokens[one]) <= most), key=lambda one: len(tokens[one])
        )
        padding = model.config.get_text_config().pad_token_id
        size = 1 if padding is None else self._batch_size
        for start in range(0, len(fitting), size):
            batch = fitting[start : start + size]
            width = max(len(tokens[one]) for one in batch)
            ids = torch.full((len(batch), width), padding or 0, dtype=torch.long)
            mask = torch.zeros_like(ids)
            for row, one in enumerate(batch):
                ids[row, : len(tokens[one])] = torch.tensor(tokens[one])
                mask[row, : len(tokens[one])] = 1
            with torch.inference_mode():
                logits = model(
                    input_ids=ids.to(model.device), attention_mask=mask.to(model.device)
                ).logits.float()
            if logits.shape[-1] > 1 and model.config.problem_type != "multi_label_classification":
                # The labels exclude each other, so a likelihood takes the logits of all of them.
                logits = logits.log_softmax(dim=-1)
            scores.update(zip(batch, logits[:, label].tolist(), strict=True))
        return scores


def _label(config: Any, one: RewardModel) -> int:
    count = int(config.num_labels)
    names = [str(config.id2label.get(i, i)) for i in range(count)]
    if one.label is None and count == 1:
        return 0
    if isinstance(one.label, int) and 0 <= one.label < count:
        return one.label
    if one.label in names:
        return names.index(str(one.label))
    msg = (
        f"The reward model has the labels {', '.join(names)}, and {one.label!r} names none of them."
        " Say which is the score: RewardModel(model, label=…)."
    )
    raise CheckpointError(msg)


def _window(config: Any, tokenizer: Any) -> int:
    positions = getattr(config.get_text_config(), "max_position_embeddings", None) or _NO_WINDOW
    return min(int(positions), int(tokenizer.model_max_length), _NO_WINDOW)
