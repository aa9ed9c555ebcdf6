"""All three tiers with real models, on the shared stack or on one of their own."""
