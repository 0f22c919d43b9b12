"""Some heads and rows against some keys of a sequence: one call of a kernel, or several where a kernel's own words fail.

Kernels take document ids only where rows and keys are the same tokens; elsewhere each run of rows of one document is a call
with the keys of that document. Dropout drops what it drops in the whole call, by a seed of its own: one for each batch entry
where a block begins at a later head, and one for each of its heads where it begins at a later row.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from falloff.distributed.forms import narrowed
from falloff.distributed.job import Job
from falloff.forms import Form
from falloff.ops.api import attend
from falloff.ops.dropout import shifted_seed


@dataclass(frozen=True)
class Block:
    """Query rows, keys and values of a job, with what of the form and of the masks belongs to them."""

    job: Job
    query: Tensor
    key: Tensor
    value: Tensor
    form: Form | None
    key_mask: Tensor | None
    row_ids: Tensor | None
    key_ids: Tensor | None
    batch: int
    head: int
    row: int
    first_key: int
    """Counted in the whole call, as `batch`, `head` and `row` are."""

    @classmethod
    def of(
        cls, job: Job, query: Tensor, key: Tensor, value: Tensor, form: Form | None, *, head: int, row: int, first_key: int
    ) -> "Block":
        """The rows from `row` on against the keys from `first_key` on, for the heads from `head` on."""
        rows, keys = slice(row, row + query.shape[2]), slice(first_key, first_key + key.shape[2])
        mask, ids = job.key_mask, job.document_ids
        mask = None if mask is None else mask[:, keys]
        row_ids, key_ids = (None, None) if ids is None else (ids[:, rows], ids[:, keys])
        return cls(job, query, key, value, form, mask, row_ids, key_ids, 0, head, row, first_key)

    def of_entry(self, entry: int) -> "Block":
        """One batch entry."""
        one = slice(entry, entry + 1)
        return replace(
            self,
            query=self.query[one],
            key=self.key[one],
            value=self.value[one],
            form=None if self.form is None else narrowed(self.form, batch=(entry, 1)),
            key_mask=None if self.key_mask is None else self.key_mask[one],
            row_ids=None if self.row_ids is None else self.row_ids[one],
            key_ids=None if self.key_ids is None else self.key_ids[one],
            batch=self.batch + entry,
        )

    def of_head(self, head: int) -> "Block":
        """One query head."""
        group = head // (self.query.shape[1] // self.key.shape[1])
        return replace(
            self,
            query=self.query[:, head : head + 1],
            key=self.key[:, group : group + 1],
            value=self.value[:, group : group + 1],
            form=None if self.form is None else narrowed(self.form, heads=(head, 1)),
            head=self.head + head,
        )

    def of_document(self, row: int, rows: int) -> "Block":
        """These rows, of one document of the one batch entry, with the keys of it."""
        assert self.row_ids is not None
        assert self.key_ids is not None
        same = self.key_ids == self.row_ids[:, row : row + 1]  # (1, M)
        places = same[0].nonzero().flatten().tolist()
        first, last = (places[0], places[-1]) if places else (0, -1)
        if self.job.seed is not None:
            first = 0  # dropout counts keys from the first
        keys = slice(first, last + 1)
        seen = same[:, keys] if self.key_mask is None else same[:, keys] & self.key_mask[:, keys]
        one_run = self.key_mask is None and len(places) == last + 1 - first
        return replace(
            self,
            query=self.query[:, :, row : row + rows],
            key=self.key[:, :, keys],
            value=self.value[:, :, keys],
            form=None if self.form is None else narrowed(self.form, rows=(row, rows), keys=(first, last + 1 - first)),
            key_mask=None if one_run else seen,
            row_ids=None,
            key_ids=None,
            row=self.row + row,
            first_key=self.first_key + first,
        )

    def attention(self) -> tuple[Tensor, Tensor]:
        """Output and log-sum-exp."""
        job, ids = self.job, self.row_ids
        if self.query.shape[0] == 0:  # nothing to cut, nor to drop
            ids = None
        elif ids is not None and (self.query.shape[2] < job.rows.length or self.key.shape[2] < job.keys.length):
            return joined([joined(list(map(Block.attention, one.documents())), 2) for one in self.entries()], 0)
        seed = job.seed
        if seed is not None and self.query.shape[0] > 0:
            if self.row > 0 and self.query.shape[:2] != (1, 1):
                heads = range(self.query.shape[1])
                return joined([joined([one.of_head(head).attention() for head in heads], 1) for one in self.entries()], 0)
            if self.head > 0 and self.query.shape[0] != 1:
                return joined(list(map(Block.attention, self.entries())), 0)
            if self.row > 0 or self.head > 0 or self.batch > 0:
                single = self.query.shape[:2] == (1, 1)
                entry = self.query.shape[0] == 1
                seed = shifted_seed(seed, self.batch, self.head if entry else None, self.row if single else None)
        return attend(
            self.query,
            self.key,
            self.value,
            self.form,
            causal=job.causal,
            scale=job.scale,
            bias_scale=job.bias_scale,
            query_start=job.query_start + self.row - self.first_key,
            window=job.window,
            key_mask=self.key_mask,
            document_ids=ids,
            dropout_p=job.dropout_p,
            seed=seed,
            sink=None,
            impl=job.impl,
        )

    def entries(self) -> "list[Block]":
        """One for each batch entry."""
        return [self.of_entry(entry) for entry in range(self.query.shape[0])]

    def documents(self) -> "list[Block]":
        """One for each run of rows of one document, of the one batch entry."""
        assert self.row_ids is not None
        counts = torch.unique_consecutive(self.row_ids[0], return_counts=True)[1].tolist()
        row, found = 0, []
        for rows in counts or [0]:
            found.append(self.of_document(row, rows) if rows else replace(self, row_ids=None, key_ids=None))
            row += rows
        return found


def joined(results: list[tuple[Tensor, Tensor]], dim: int) -> tuple[Tensor, Tensor]:
    """The results of blocks side by side along a dimension."""
    if len(results) == 1:
        return results[0]
    outs, lses = zip(*results, strict=True)
    return torch.cat(outs, dim), torch.cat(lses, dim)
