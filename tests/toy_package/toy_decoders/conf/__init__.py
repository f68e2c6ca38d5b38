"""The YAMLs; that this is a package lets `hydra.searchpath=[pkg://toy_decoders.conf]` find them too."""
