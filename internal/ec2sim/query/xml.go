package query

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"time"
)

// Namespace is the XML namespace of the EC2 API version the SDKs speak.
const Namespace = "http://ec2.amazonaws.com/doc/2016-11-15/"

// Marshal writes the answer to action: an <action>Response element with the
// request id and the fields of body, a struct with xml tags. Lists are
// elements with <item> children (`xml:"fooSet>item"`).
func Marshal(action, requestID string, body any) ([]byte, error) {
	var content bytes.Buffer
	err := xml.NewEncoder(&content).EncodeElement(body, xml.StartElement{Name: xml.Name{Local: "content"}})
	if err != nil {
		return nil, fmt.Errorf("writing the answer to %s: %w", action, err)
	}
	inner := bytes.TrimSuffix(bytes.TrimPrefix(content.Bytes(), []byte("<content>")), []byte("</content>"))
	var b bytes.Buffer
	b.WriteString(xml.Header)
	fmt.Fprintf(&b, "<%sResponse xmlns=\"%s\"><requestId>%s</requestId>", action, Namespace, requestID)
	b.Write(inner)
	fmt.Fprintf(&b, "</%sResponse>", action)
	return b.Bytes(), nil
}

// MarshalError writes a refusal in the form every EC2 call has.
func MarshalError(requestID, code, message string) []byte {
	var b bytes.Buffer
	b.WriteString(xml.Header)
	b.WriteString("<Response><Errors><Error><Code>")
	escape(&b, code)
	b.WriteString("</Code><Message>")
	escape(&b, message)
	b.WriteString("</Message></Error></Errors><RequestID>")
	escape(&b, requestID)
	b.WriteString("</RequestID></Response>")
	return b.Bytes()
}

// escape writes text; a bytes.Buffer never fails.
func escape(b *bytes.Buffer, text string) {
	_ = xml.EscapeText(b, []byte(text))
}

// Time formats a timestamp as EC2 does (ISO 8601, milliseconds, UTC).
func Time(t time.Time) string {
	return t.UTC().Format("2006-01-02T15:04:05.000Z")
}
