"""Attention over a sequence that is spread over the ranks of a process group: context parallel, with a bias."""

from falloff.distributed.api import attention
from falloff.distributed.shards import positions, shard, shard_form, unshard
from falloff.distributed.traffic import bytes_sent

__all__ = ["attention", "bytes_sent", "positions", "shard", "shard_form", "unshard"]
