"""A run's folder: its log, its evaluations, its health and its report."""
