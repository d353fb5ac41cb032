"""Where signatures of images in registries are: lookaside storage, attachments, bundles. Verifies nothing."""
