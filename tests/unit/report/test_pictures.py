import cv2
import numpy as np
import torch
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from torchvision.transforms.v2 import Compose, Normalize, Resize

from anomalib_unias.report.pictures import draw_picture, map_on_unit_scale, original_colors


def decode(jpeg: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)[..., ::-1].astype(int)


def test_image_beside_map_and_outline() -> None:
    image = torch.full((3, 100, 150), 0.5)
    anomaly_map, mask = torch.zeros(100, 150), torch.zeros(1, 100, 150)[0]
    anomaly_map[60:, :] = 1
    mask[10:40, 30:90] = 1
    picture = decode(draw_picture(image, anomaly_map, mask))
    assert picture.shape == (224, 2 * 336 + 6, 3)
    left, right = picture[:, :336], picture[:, -336:]
    assert np.abs(left - 127).max() < 12
    assert np.abs(right[:15] - 127).max() < 25
    assert right[200, 100, 0] > 180  # bright where the map is high
    red, green, blue = right[round(10 * 2.24), 130]
    assert min(green, blue) > red + 50
    assert np.abs(right[60, 130] - 127).max() < 12  # an outline, not an area


def test_image_alone() -> None:
    assert decode(draw_picture(torch.rand(3, 64, 64), None, None)).shape == (224, 224, 3)
    one = torch.ones(1, 1)
    assert decode(draw_picture(torch.rand(3, 500, 20), torch.rand(500, 20), None)).shape == (224, 2 * 9 + 6, 3)
    assert decode(draw_picture(torch.ones(3, 1, 1), one[:, :], one)).shape == (224, 454, 3)


def test_colors_are_those_of_the_file() -> None:
    image = torch.rand(3, 8, 8)
    normalize = Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    pre_processor = PreProcessor(Compose([Compose([Resize((8, 8))]), Compose([normalize])]))
    torch.testing.assert_close(original_colors(normalize(image), pre_processor), image)
    torch.testing.assert_close(original_colors(image, None), image)
    stretched = original_colors(10 * image - 5, None)
    assert (stretched.min(), stretched.max()) == (0, 1)


def test_maps_share_a_scale_once_they_are_normalised() -> None:
    anomaly_map = torch.tensor([[0.2, 0.4], [0.4, 0.6]])
    post_processor = PostProcessor()
    stretched = torch.tensor([[0.0, 0.5], [0.5, 1.0]])
    torch.testing.assert_close(map_on_unit_scale(anomaly_map[None], post_processor), stretched)
    torch.testing.assert_close(map_on_unit_scale(anomaly_map, None), stretched)
    post_processor.pixel_max.fill_(7)
    torch.testing.assert_close(map_on_unit_scale(anomaly_map, post_processor), anomaly_map)
    assert map_on_unit_scale(torch.zeros(2, 2), None).isfinite().all()
