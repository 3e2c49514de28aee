"""CNN-LSTM: Yan et al., "A hybrid convolutional and recurrent deep neural network for breast cancer pathological image
classification" (BIBM 2018; Methods 173, 2020).

Features of an image's patches, in reading order, run through a bidirectional LSTM of three layers. The features of the
paper are the pooled maps of the last three blocks of Inception-v3 (`trunks.INCEPTION_BLOCKS`, 5376 numbers), and an
image of 2048 x 1536 px is 4 x 3 patches of 512 px. Over a slide the sequence is its feature table: row-major, of any
length. A missing patch (no tissue, or unread) is left out and the sequence closes up; there is no zero vector in its
place, which the network would have to tell from a patch.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence

from medvision.models.mil.contract import (
    DESIGNS,
    Aggregator,
    BagOutput,
    MilDesign,
    MilOptions,
    cross_entropy,
    softmax_probabilities,
)


class CnnLstm(Aggregator):
    """Logits of the classes from the LSTM's final states of both directions, or from the largest of all states."""

    has_attention = False

    def __init__(self, dimension: int, classes: int, options: MilOptions) -> None:
        super().__init__(dimension, classes)
        self.readout = options.readout
        self.lstm = nn.LSTM(
            dimension,
            options.hidden,
            options.layers,
            batch_first=True,
            bidirectional=True,
            dropout=options.dropout if options.layers > 1 else 0.0,
        )
        self.dropout = nn.Dropout(options.dropout)
        self.classify = nn.Linear(2 * options.hidden, classes)

    def forward(self, bags: torch.Tensor) -> list[BagOutput]:
        """One output per sequence `(b, n, d)`; the sequences run together, packed. Rows of NaN are left out.

        Raises:
            ValueError: if a sequence has no patch, or vectors are of another length.
        """
        if bags.ndim != 3 or bags.shape[2] != self.dimension:
            raise ValueError(f"sequences of shape {tuple(bags.shape)} are not (b, n, {self.dimension})")
        present = ~torch.isnan(bags).any(dim=2)
        lengths = present.sum(dim=1)
        if not bool((lengths > 0).all()):
            raise ValueError("a sequence without any patch has no result")
        rows = [self.standardised(bag[held]) for bag, held in zip(bags, present, strict=True)]
        packed = pack_padded_sequence(
            pad_sequence(rows, batch_first=True), lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        states, (final, _) = self.lstm(packed)
        if self.readout == "max":
            padded, _ = pad_packed_sequence(states, batch_first=True, padding_value=-torch.inf)
            read = padded.amax(dim=1)
        else:
            # The last layer's two directions: the state after the last patch, and after the first.
            read = torch.cat([final[-2], final[-1]], dim=1)
        logits = self.classify(self.dropout(read))
        none = bags.new_full((bags.shape[1],), torch.nan)
        return [BagOutput(row, none) for row in logits]


DESIGNS.register("cnn-lstm")(MilDesign(CnnLstm, softmax_probabilities, cross_entropy))
