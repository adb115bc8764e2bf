"""Studies, one question a file; each sets STUDY."""
