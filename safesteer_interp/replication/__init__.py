"""Replication: everything that a paper printed, on a model of one's own, by the paper's protocol, on one page.

- `protocol`: what the paper did, column by column, and what is done where it cannot be had
- `estimate`: how long it takes and what it costs, and what it took
- `cells`: every printed number beside ours
- `page`: the page
- `readiness`: whether memory, disk and licences are in order
"""
