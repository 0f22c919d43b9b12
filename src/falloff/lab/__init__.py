"""The lab behind `falloff compare`: one small model per scheme on real text, trained short and tested long."""
