"""Inspect any number of images on the machines of a Ray cluster, or on this one; results are Parquet files.

    pip install "anomalib-unias[ray]"
    python inspect_images.py model.xml s3://bucket/images results --workers 8

Paths are of a file system that all machines see, or of a store: s3://, gs://, abfs://.
"""

import argparse


def inspect_images(model: str, images: str, results: str, workers: int) -> None:
    """Inspect images with several workers, which have one model and one core each; if one dies, its work is repeated.

    Args:
        model (str): Export of anomalib, ``*.xml`` or ``*.onnx``.
        images (str): Folder of the images, searched with its sub-folders.
        results (str): Folder for the Parquet files.
        workers (int): Number of workers.
    """
    import ray

    from anomalib_unias.deploy import BatchInspector

    # Reading and writing need a share of a core: without it they would wait for ever where workers take all cores.
    share = {"num_cpus": 0.1}
    suffixes = ["png", "jpg", "jpeg", "bmp", "tif"]
    (
        ray.data.read_binary_files(images, include_paths=True, file_extensions=suffixes, ray_remote_args=share)
        .map_batches(
            BatchInspector,
            fn_constructor_args=[model],
            batch_size=64,
            batch_format="pyarrow",
            num_cpus=0.9,
            compute=ray.data.ActorPoolStrategy(size=workers),
        )
        .write_parquet(results, ray_remote_args=share)
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="export of anomalib, *.xml or *.onnx")
    parser.add_argument("images", help="folder, searched with its sub-folders")
    parser.add_argument("results", help="folder for the Parquet files")
    parser.add_argument("--workers", type=int, default=2)
    inspect_images(**vars(parser.parse_args()))
