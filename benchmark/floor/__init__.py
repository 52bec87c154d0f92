"""The floors: what a job's messages cost over bare libraries, without anything that Reelnet does besides.

`contract` sends exactly the messages that the product sends for one job, in their order and sizes; the runner computes
the digest of the result and the broadcaster compares it, as in the product. `unary` is one request and one reply per
hop. Three processes stand for broadcaster, node and runner. `tests/integration/benchmark/test_floor.py` compares the
contract floor's messages with the product's.
"""
