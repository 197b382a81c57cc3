"""Change over time: a patient's time points are aligned, lesions matched, and what changed is measured with its uncertainty."""
