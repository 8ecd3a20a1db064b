"""Two hidden layers on scikit-learn's digits (LeNet-300-100 in form): what pruning has been tried on since 1990."""
