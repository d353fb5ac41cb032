"""``containers-storage:``: the images of podman, buildah and CRI-O where they lie (containers-transports(5)).

The store is only read. ``reference`` is the room's door, and opens what is in ``source``. ``store`` knows where things
lie. ``records`` parses the lists of images and layers, which are read under ``lock``, and ``lookup`` finds images in
them. ``tar_split``, ``layer_files`` and ``layer_reader`` put the tar of a layer together again. ``tar_layers`` makes
the manifest that is served (contrib/adr/0032).
"""
