"""Fields: bytes to value and back, by extension.

| extension                                | value                                                          |
| ---------------------------------------- | -------------------------------------------------------------- |
| txt text transcript                      | str, UTF-8                                                     |
| json jsn                                 | what JSON holds                                                |
| cls cls2 class count index inx id        | int                                                            |
| npy                                      | array; decoded without a copy, read-only                       |
| npz                                      | dict of arrays                                                 |
| ten tb                                   | list of arrays (webdataset's tensor format), likewise          |
| jpg jpeg jpe jfif png ppm pgm pbm pnm    | uint8 (H, W, 3) RGB unless asked otherwise: see `decoder`      |
| webp bmp tif tiff gif (gif: only read)   | the same                                                       |
| mp msgpack msg                           | what msgpack holds                                             |
| cbor                                     | what CBOR holds                                                |
| X.gz                                     | the value of X                                                 |
| all others, pickles (pyd pickle pkl pth) | bytes as they are: nothing here ever unpickles                 |

Importing this module imports neither numpy nor an image library; a codec is loaded when first used.
"""

from wlshard.codecs.codec import Buffer, decode, decoder, encode

__all__ = ["Buffer", "decode", "decoder", "encode"]
