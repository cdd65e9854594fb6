"""A small checkpoint made as large as another model without a change to what it computes.

What a model costs to run follows from its sizes, whatever its weights are. So a widened checkpoint shows what serving a
large model costs, by a model that fits anywhere and that still answers its questions.

The text model grows. The vision tower and the vocabulary stay. Transformations of a network that keep its function go
back to Net2Net (arXiv 1511.05641). Here every new channel carries zero, which a transformer with RMSNorm allows:

- The residual stream is zero in its new channels: nothing writes there. Its mean square falls by ``old / new``, which
  the weight and the epsilon of each norm make up for.
- A head of ``r`` times the size holds each rotary pair ``i`` at ``r * i``, where its frequency is the same. Attention
  divides by the root of the head size, so queries are multiplied by the root of ``r``.
- New heads, new rows of the MLP and new layers compute, but nothing reads what they write.

What nothing reads is noise and not zeros: a GPU needs less power for zeros, and would run faster than with a real
model.
"""
