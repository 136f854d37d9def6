{{/*
What the operator may do in a namespace that it serves. Cluster-wide this is a ClusterRole; where
watchNamespaces names some, it is a Role in each of them.

Server-side apply is a PATCH that also asks for `create` when the object is not there, and that
question bears the object's name: so names can be given where they are fixed. It holds everything that
the Role `isochrone-gateway` grants to a cell's agents, because nobody may grant what they have not.
*/}}
{{- define "isochrone.rules.namespaced" -}}
# What users declare: read.
- apiGroups: [isochrone.dev]
  resources: [models, inferenceservices]
  verbs: [get, list, watch]
# What the operator writes: variants that a builder made, and the plan of a namespace.
- apiGroups: [isochrone.dev]
  resources: [modelvariants, servingplans]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [isochrone.dev]
  resources: [models/status, modelvariants/status, inferenceservices/status, servingplans/status]
  verbs: [get, patch]
# Owner references that block the owner's deletion need this where the API server enforces it.
- apiGroups: [isochrone.dev]
  resources: [models/finalizers, modelvariants/finalizers, servingplans/finalizers]
  verbs: [update]
# Executors and builders: what became of them, and the last line of a builder's log, its result.
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch]
- apiGroups: [""]
  resources: [pods/log]
  verbs: [get]
# Worker groups, gateways, Jobs, and their configuration. Their names come from plans and models.
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
# One of each in a namespace, written by name. They are watched by a label, which no rule can name.
- apiGroups: [""]
  resources: [services, serviceaccounts, persistentvolumeclaims]
  verbs: [list, watch]
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [list, watch]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [list, watch]
- apiGroups: [rbac.authorization.k8s.io]
  resources: [roles, rolebindings]
  verbs: [list, watch]
- apiGroups: [""]
  resources: [services]
  resourceNames: [isochrone-gateway]
  verbs: [get, create, patch, delete]
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  resourceNames: [isochrone-gateway]
  verbs: [get, create, patch, delete]
- apiGroups: [""]
  resources: [serviceaccounts]
  resourceNames: [isochrone-gateway, isochrone-executor, isochrone-builder]
  verbs: [get, create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  resourceNames: [isochrone-gateway, isochrone-executor, isochrone-builder, isochrone-fetcher]
  verbs: [get, create, patch, delete]
- apiGroups: [rbac.authorization.k8s.io]
  resources: [roles, rolebindings]
  resourceNames: [isochrone-gateway]
  verbs: [get, create, patch, delete]
# The artifact store is never deleted by the operator.
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  resourceNames: [isochrone-store]
  verbs: [get, create, patch]
# Certificates of a cell: by their names alone, and listed by them, so that no other Secret can be read.
- apiGroups: [""]
  resources: [secrets]
  resourceNames: [isochrone-gateway-tls, isochrone-executor-tls]
  verbs: [get, list, create, patch, delete]
# A cell's Lease, which the operator makes and its agents hold.
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [isochrone-cell]
  verbs: [get, create, update, patch, delete]
- apiGroups: ["", events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end -}}

{{/* What it reads of the whole cluster, in both modes: hardware, budgets, and what they select. Of some
namespaces alone it writes nothing of what all share. */}}
{{- define "isochrone.rules.cluster" -}}
- apiGroups: [isochrone.dev]
  resources: [acceleratorpools, costbudgets]
  verbs: [get, list, watch]
- apiGroups: [""]
  resources: [nodes, namespaces]
  verbs: [get, list, watch]
{{- if not .Values.watchNamespaces }}
- apiGroups: [isochrone.dev]
  resources: [acceleratorpools/status, costbudgets/status]
  verbs: [get, patch]
# Which kinds are served, now and when that changes.
- apiGroups: [apiextensions.k8s.io]
  resources: [customresourcedefinitions]
  verbs: [get, list, watch]
{{- end }}
{{- end -}}

{{/* In its own namespace: its Lease and its certificate authority, both made by POST, whose name no
rule can see. */}}
{{- define "isochrone.rules.own" -}}
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [create]
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [isochrone-operator]
  verbs: [get, update]
- apiGroups: [""]
  resources: [secrets]
  verbs: [create]
- apiGroups: [""]
  resources: [secrets]
  resourceNames: [isochrone-ca]
  verbs: [get, update]
- apiGroups: ["", events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end -}}

{{/* NodePools are ours to make and to delete; what Karpenter makes of them is only read. */}}
{{- define "isochrone.rules.karpenter" -}}
- apiGroups: [karpenter.sh]
  resources: [nodepools]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [karpenter.sh]
  resources: [nodeclaims]
  verbs: [get, list, watch]
{{- end -}}

{{/* Machines are never made: a MachineDeployment that the platform team has labeled is scaled. */}}
{{- define "isochrone.rules.clusterAPI" -}}
- apiGroups: [cluster.x-k8s.io]
  resources: [machinedeployments]
  verbs: [get, list, watch]
- apiGroups: [cluster.x-k8s.io]
  resources: [machinedeployments/scale]
  verbs: [get, patch]
{{- end -}}
