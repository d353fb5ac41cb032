"""``containers-storage:``: the images of podman, buildah and CRI-O where they lie (containers-transports(5)).

The store is only read. ``reference`` and ``source`` are the room's doors. ``records`` reads the lists of images and
layers, under ``lock``; ``tar_split``, ``layer_files`` and ``layer_reader`` put a layer together again, and
``tar_layers`` is what the manifest that is served is made of.
"""
