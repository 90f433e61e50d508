"""What of pruning needs torch: masks that are learned, statistics and gradients of data, distillation."""
