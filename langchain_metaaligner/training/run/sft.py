"""TRL's SFTTrainer, with the LM head on the edits only and batches of similar length."""

from __future__ import annotations

from typing import Any

import torch
from accelerate.utils import DistributedType
from trl.trainer.sft_trainer import SFTTrainer

from langchain_metaaligner.training.run.encoder import IGNORED
from langchain_metaaligner.training.run.sampler import SimilarLengthSampler


class AlignerTrainer(SFTTrainer):
    """An `SFTTrainer` for prompts and edits that are already tokenised.

    On a CPU, TRL's loss projects every position of a batch onto the vocabulary, though most belong
    to prompts. In a single process on a CPU, this class runs the head on the edits' positions
    only, which takes less memory and time. On a GPU, TRL does so itself. Under FSDP, DeepSpeed or
    several processes TRL's loss stays as it is, since the weights must then be reached through
    the wrapped model.

    Args:
        *args: As for `SFTTrainer`.
        group_by_length: Whether batches hold examples of similar length.
        **options: As for `SFTTrainer`.
    """

    def __init__(self, *args: Any, group_by_length: bool, **options: Any) -> None:
        self.model: Any
        self.args: Any
        self.train_dataset: Any
        self._group_by_length = group_by_length
        super().__init__(*args, **options)
        if self.args.bf16:
            for module in self.model.modules():
                # Autocast would cast it back to bfloat16 at once.
                if hasattr(module, "lora_A"):
                    module.cast_input_dtype_enabled = False

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Compute the mean loss over the tokens of the edits.

        Args:
            model: The prepared model.
            inputs: `input_ids` and `labels`, both `[batch, tokens]`.
            return_outputs: Whether to return the outputs of the model too.
            num_items_in_batch: Labelled tokens in all batches of the step.

        Returns:
            The loss, a scalar.
        """
        if return_outputs or not self._plain(inputs):
            theirs: Any = super()
            return theirs.compute_loss(model, inputs, return_outputs, num_items_in_batch)
        whole = self.model.get_base_model() if hasattr(self.model, "peft_config") else self.model
        wanted = inputs["labels"][:, 1:]
        learned = wanted != IGNORED
        with self.accelerator.autocast():
            # No mask: padding is on the right, where causal attention never looks.
            body = whole.base_model(input_ids=inputs["input_ids"], use_cache=False)
            logits = whole.get_output_embeddings()(body.last_hidden_state[:, :-1][learned])
        total = torch.nn.functional.cross_entropy(logits.float(), wanted[learned], reduction="sum")
        return total / (learned.sum() if num_items_in_batch is None else num_items_in_batch)

    def _plain(self, inputs: dict[str, Any]) -> bool:
        """Whether this is a padded batch in a single process on a CPU, with TRL's usual loss."""
        return (
            inputs["input_ids"].device.type == "cpu"
            and self.accelerator.distributed_type == DistributedType.NO
            and set(inputs) <= {"input_ids", "labels", "attention_mask"}
            and self.args.loss_type == "nll"
            and not self.args.label_smoothing_factor
            and not self.aux_loss_enabled
        )

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        data = self.train_dataset if train_dataset is None else train_dataset
        if not self._group_by_length or "input_ids" not in data.column_names:
            return super()._get_train_sampler(train_dataset)
        batch = self.args.train_batch_size * self.args.gradient_accumulation_steps
        return SimilarLengthSampler(
            [len(ids) for ids in data["input_ids"]],
            batch=batch * self.accelerator.num_processes,
            seed=self.args.seed,
        )

    def create_model_card(self, *args: Any, **options: Any) -> None:
        """Write no card: this package writes one at the end, and knows the data."""
