"""A small residual CNN on scikit-learn's digits: trained, pruned by filters and exported in seconds, offline."""
