"""What the parent and the measured process share: specs, reports, errors, and how they are written.

Standard library only, so that every environment with a backend can import it; but `estimates` calculates with
numpy and scipy, and `sentence_pairs` reads parquet with pyarrow.
"""
