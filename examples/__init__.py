"""Scripts to be read and run; installed as `hf_slap.examples`, where `slap train` and `slap prepare` find them."""
