"""The ledger task: rows of handwritten numbers, questions over them, and the models that learn it.

Its chains are written in the CoS format.
"""
