"""How good a model is: measures (arrays in, numbers out), tasks declared as data, and `evaluate`, which runs them."""
