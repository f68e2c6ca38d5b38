"""The benchmark: how fast our decoders are beside what users would otherwise run, and where their time goes."""
