package v1alpha1

import "strconv"

// Price in dollars an hour, as a decimal number: "0.0832". Not a Quantity,
// which would show it as 83200u.
//
// +kubebuilder:validation:MaxLength=32
// +kubebuilder:validation:Pattern=`^[0-9]+(\.[0-9]+)?$`
type Price string

// NewPrice writes a price, to a hundred-thousandth of a dollar.
func NewPrice(dollars float64) Price {
	return Price(strconv.FormatFloat(max(0, dollars), 'f', 5, 64))
}

// Dollars is the price as a number; 0 when it is empty or no number.
func (p Price) Dollars() float64 {
	d, err := strconv.ParseFloat(string(p), 64)
	if err != nil {
		return 0
	}
	return d
}
