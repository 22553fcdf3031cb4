package capacity

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// OfferingsKey is the key in the binaryData of ConfigMap berth-offerings that
// holds the Offerings: JSON, gzip-compressed.
const OfferingsKey = "offerings.json.gz"

const (
	// maxOfferingsPacked is what fits into a ConfigMap (validation.MaxConfigMapSize
	// of the API server is 1 MiB for all keys and values), less room for metadata.
	maxOfferingsPacked = 1<<20 - 16<<10
	// maxOfferingsPlain bounds what is unpacked: many times the largest region.
	maxOfferingsPlain = 32 << 20
)

// EncodeOfferings packs o for the ConfigMap. The same Offerings give the same
// bytes. It fails when the result would not fit into a ConfigMap.
func EncodeOfferings(o *Offerings) ([]byte, error) {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if err := json.NewEncoder(z).Encode(o); err != nil {
		return nil, fmt.Errorf("encoding offerings: %w", err)
	}
	if err := z.Close(); err != nil {
		return nil, fmt.Errorf("packing offerings: %w", err)
	}
	if b.Len() > maxOfferingsPacked {
		return nil, fmt.Errorf("packing offerings: %d bytes do not fit into a ConfigMap, at most %d do", b.Len(), maxOfferingsPacked)
	}
	return b.Bytes(), nil
}

// DecodeOfferings unpacks what EncodeOfferings has packed. Fields that it does
// not know are ignored: the writer may be newer than the reader. What is larger
// than any region, cut short, or followed by something else is refused.
func DecodeOfferings(data []byte) (*Offerings, error) {
	if len(data) == 0 {
		return nil, errors.New("unpacking offerings: nothing there")
	}
	if len(data) > maxOfferingsPacked {
		return nil, fmt.Errorf("unpacking offerings: %d bytes, at most %d are expected", len(data), maxOfferingsPacked)
	}
	z, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("unpacking offerings: %w", err)
	}
	plain, err := io.ReadAll(io.LimitReader(z, maxOfferingsPlain+1))
	if err != nil {
		return nil, fmt.Errorf("unpacking offerings: %w", err)
	}
	if len(plain) > maxOfferingsPlain {
		return nil, fmt.Errorf("unpacking offerings: more than %d bytes", maxOfferingsPlain)
	}
	o := new(Offerings)
	if err := json.Unmarshal(plain, o); err != nil {
		return nil, fmt.Errorf("decoding offerings: %w", err)
	}
	return o, nil
}
