"""What the files and batches of all kinds of data share.

- :mod:`~anydiff.data.batches`: batch samplers and a loader that can resume within an epoch, `Split`
- :mod:`~anydiff.data.sequences`: `Sequences`, items of different lengths, as padded batches
- :mod:`~anydiff.data.sizes`: `SizeDistribution`, the numbers of rows that items have
- :mod:`~anydiff.data.values`: numbers as users have them, and what float32 holds of them
- :mod:`~anydiff.data.ranges`: indices into ragged arrays
- :mod:`~anydiff.data.vocabulary`: `Vocabulary`, texts as numbers of words
- :mod:`~anydiff.data.pickles`: pickles of arrays, read without running code

A loader's batch becomes what a diffusion takes by a function `unpack(batch) -> (x, space, cond)`, which
each kind of data has.
"""
