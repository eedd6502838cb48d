"""Reports: each module turns outcomes into lines or a document. No torch, no pytest."""
